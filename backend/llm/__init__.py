"""Text models: from a trained model to a .pte, and from a .pte to text. Importing it loads nothing."""
