"""Files and directories of timm."""
