"""Coverage-guided fuzzing of what opens strangers' files; see README.md here."""
