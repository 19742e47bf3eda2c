"""Takes model folders, results and the demo to the Hugging Face Hub. The command line is `hub_upload.py`."""
