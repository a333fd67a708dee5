"""What people look at: tables, videos, progress."""
