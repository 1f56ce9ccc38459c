"""The video U-Net: inflation, attention, and windows."""
