"""Colours and fonts of Gradio's components; the page's own parts are in page.css. System fonts: nothing is fetched."""

import gradio as gr

# The violet of a stained nucleus.
_STAIN = gr.themes.Color(
    *("#f7f4fc", "#ece5f7", "#d9cbef", "#bfa8e2", "#a07fd0", "#7f58b8", "#66429b", "#52357c", "#3b2759", "#281b3d"),
    "#1a1229",
    name="stain",
)

THEME = gr.themes.Base(
    primary_hue=_STAIN,
    secondary_hue=_STAIN,
    neutral_hue=gr.themes.colors.stone,
    radius_size=gr.themes.sizes.radius_lg,
    font=("system-ui", "sans-serif"),
    font_mono=("ui-monospace", "monospace"),
).set(
    body_background_fill="#faf9f7",
    body_background_fill_dark="#141218",
    body_text_color="#26222e",
    body_text_color_dark="#ece9f1",
    body_text_color_subdued="#625d6b",
    body_text_color_subdued_dark="#aaa4b5",
    background_fill_primary_dark="#1e1b24",
    background_fill_secondary="#f5f3f0",
    background_fill_secondary_dark="#26222e",
    border_color_primary="#e6e2dc",
    border_color_primary_dark="#38333f",
    block_background_fill_dark="*background_fill_primary",
    block_label_background_fill="transparent",
    block_label_background_fill_dark="transparent",
    block_label_border_width="0px",
    block_label_text_color="*body_text_color",
    block_label_text_weight="600",
    block_title_text_color="*body_text_color",
    block_title_text_weight="600",
    input_background_fill="#ffffff",
    input_background_fill_dark="#26222e",
    input_border_width="1px",
    input_border_color="#8d8796",
    input_border_color_dark="#7d7688",
    link_text_color="*primary_600",
    link_text_color_dark="*primary_300",
    slider_color="*primary_500",
    slider_color_dark="*primary_400",
    checkbox_label_background_fill="#ffffff",
    checkbox_label_background_fill_dark="#1e1b24",
    checkbox_label_background_fill_selected="*primary_50",
    checkbox_label_background_fill_selected_dark="#2c2340",
    checkbox_label_border_color_selected="*primary_500",
    checkbox_label_border_color_selected_dark="*primary_400",
    checkbox_label_text_color_selected="*body_text_color",
    checkbox_label_padding="10px 14px",
)
