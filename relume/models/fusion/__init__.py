"""Systems that fuse the results of several networks, one published team a file."""
