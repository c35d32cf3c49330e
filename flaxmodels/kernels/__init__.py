"""Operations with more than one implementation: each picks by platform and shape and has one reference."""
