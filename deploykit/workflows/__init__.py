"""What composes the stages; nothing else imports several of them. `export.py` is the story, told once."""
