"""What judges are asked, the grades that they give, and those that stand in files."""
