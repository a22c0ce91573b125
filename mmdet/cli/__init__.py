"""The command line: ``mmdet COMMAND``, and behind it one module a command."""
