"""From image bytes to tiles: `load` decodes to RGB, `tiling` cuts into the tiles that the vision graph takes."""
