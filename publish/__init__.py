"""Publish model folders, results and pages on the Hugging Face Hub. The command line is `hub_upload.py`."""
