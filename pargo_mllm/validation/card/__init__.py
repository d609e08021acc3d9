"""What a set is, told to those who would train on it: one page of HTML, and a card as the hub shows it."""
