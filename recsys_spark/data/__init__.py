"""Sources, cleaning, splitting, synthetic data: DataFrame in, DataFrame out."""
