module d4c.test/tarwriters

go 1.21
