"""What lies on disk: the bundle directory, its manifest, the names and shapes of its graphs' inputs and outputs."""
