"""Fine-tuning on one's own images: every option chosen by the weights, the images, the devices."""
