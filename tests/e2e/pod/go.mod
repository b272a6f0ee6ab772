module pod

go 1.18
