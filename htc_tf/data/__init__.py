"""From files to tensors: the record's schema, the data sets, the augmentations, the batches."""
