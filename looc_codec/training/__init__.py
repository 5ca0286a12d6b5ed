"""Training of LooC-VAE codecs: loop, checkpoints, fit of the shared codebook."""
