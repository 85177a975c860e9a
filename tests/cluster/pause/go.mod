module outrigger.invalid/cluster/pause

go 1.26
