// What every Node process costs: nothing is in it.
