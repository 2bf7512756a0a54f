"""What people look at: data frames or models in, small tidy frames out."""
