"""Views of results: terminal, HTML, figures, timeline. Each module is imported by who needs it."""
