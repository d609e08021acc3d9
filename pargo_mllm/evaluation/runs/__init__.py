"""What an evaluation leaves in its folder: answers, marks, failures and the result."""
