"""The networks: autoencoder of images and masks, image encoder, denoising U-Net."""
