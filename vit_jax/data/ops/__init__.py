"""Operations: what happens to images."""
