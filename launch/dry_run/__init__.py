"""A dry run: MindSpore compiles and plans for a device that is not there, with stand-ins for the device's libraries."""
