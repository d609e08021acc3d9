"""The actions of ``pargo data``, one file each."""
