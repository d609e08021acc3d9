"""The commands of ``pargo``, a module each: ``add_parser`` says what a command takes, names its function and its errors."""
