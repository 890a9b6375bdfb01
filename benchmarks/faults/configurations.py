KIND = "configuration"
def cases(world, seed, quick): return iter(())
