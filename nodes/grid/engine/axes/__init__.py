"""What varies: text or JSON becomes values."""
