"""What files of questions, answers and predictions hold: rows of tables, JSON and text, and the pictures beside or in them."""
