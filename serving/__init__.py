"""What people and programs talk to: the report, chat, explanations of single samples."""
