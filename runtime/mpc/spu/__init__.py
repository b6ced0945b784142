"""Backend ``spu``: MPC programs on SecretFlow's SPU, between real processes."""
