"""Write captions of images."""
