"""The commands of ``pargo``, a module each: ``run`` takes what the module of the same name in ``pargo_cli`` has parsed."""
