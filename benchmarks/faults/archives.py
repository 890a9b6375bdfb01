KIND = "hostile file"
def cases(world, seed, quick): return iter(())
