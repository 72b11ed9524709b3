"""The studio: a page on this machine where images are restored and looked at before and after."""
