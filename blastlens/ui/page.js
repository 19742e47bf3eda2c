// What Gradio does not offer. It runs once, when the page opens.

// The open tab is part of the address, so that a link restores it. `gr.Tabs.select` would also report the tab that is
// open at first, and overwrite the one of the link.
document.addEventListener("click", event => {
  const tab = event.target.closest("[role=tab][data-tab-id]"), here = new URL(location);
  if (!tab) return;
  here.searchParams.set("tab", tab.dataset.tabId);
  document.title = `${tab.innerText} · blastlens`;
  history.replaceState(history.state, "", here);
});

// A key on a slider is a release, too.
document.addEventListener("keyup", event => {
  if (event.target.matches?.("input[type=range], input[type=number]") && /^(Arrow|Page|Home|End|Enter)/.test(event.key))
    event.target.dispatchEvent(new PointerEvent("pointerup", {bubbles: true}));
});

// An image can be pasted anywhere on its tab.
document.addEventListener("paste", event => {
  const files = event.clipboardData?.files, input = document.querySelector(".given input[type=file]");
  if (!files?.length || !input?.closest(".block").checkVisibility()) return;
  input.files = files;
  input.dispatchEvent(new Event("change", {bubbles: true}));
});

// The handle between the pictures before and after.
document.addEventListener("input", event => {
  event.target.closest?.(".pair")?.style.setProperty("--cut", event.target.value + "%");
});
