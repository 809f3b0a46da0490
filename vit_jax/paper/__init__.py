"""The paper's tables as data, what we have for their cells, and the runs that fill them."""
