"""RECORDS written in formats that other programs read: Parquet, webdataset tars, class folders."""
