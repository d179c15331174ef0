"""Folders of CSV or Parquet files."""

from qdag.sources.files.folder import FilesFolder, FolderLook

__all__ = ["FilesFolder", "FolderLook"]
