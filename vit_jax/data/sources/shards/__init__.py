"""Images in tar files, the shards of WebDataset."""
