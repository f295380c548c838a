"""Speed on a CPU: `vprm bench`. A roofline first, competitors interleaved in one run, medians, one JSON document."""
