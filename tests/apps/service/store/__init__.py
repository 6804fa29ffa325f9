"""What `app.py` serves."""
