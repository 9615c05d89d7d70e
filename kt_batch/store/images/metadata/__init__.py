"""What a picture says about itself: EXIF, XMP, IPTC and ICC, read from files, carried over and written into files."""
