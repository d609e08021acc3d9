"""Tables and pictures, made from the rows of a result file."""
