"""Speed: `vprm bench`. A roofline first, contenders interleaved in one run, medians, one JSON document."""
