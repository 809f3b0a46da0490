"""Speed: benchmarks and profiles of compiled steps."""
