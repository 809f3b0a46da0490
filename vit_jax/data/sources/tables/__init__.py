"""Tables of images: CSV and JSON lines that name files, parquet and Hugging Face data sets."""
