"""Labels of patches: from what others say is where in pictures to a file of regions."""
