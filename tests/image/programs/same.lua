-- same.lua: see same.py.
local M = 2147483647
local floor, sqrt = math.floor, math.sqrt
local function step(x) return x * 16807 % M end

local function primes(n)
	local sieve, count = {}, 0
	for i = 0, n - 1 do sieve[i] = true end
	for i = 2, n - 1 do
		if sieve[i] then
			count = count + 1
			for j = i * i, n - 1, i do sieve[j] = false end
		end
	end
	return count
end

local function ordered(n)
	local x, values, total = 42, {}, 0
	for i = 1, n do
		x = step(x)
		values[i] = x % 1000003
	end
	table.sort(values)
	for i = 1, n do total = (total * 31 + values[i]) % 1000000007 end
	return total
end

local function text(n)
	local x, h, words, count = 7, 0, {}, 0
	for _ = 1, n do
		x = step(x)
		local word = "w" .. string.format("%d", x % 5003)
		if not words[word] then count = count + 1 end
		words[word] = (words[word] or 0) + 1
		for c = 1, #word do h = (h * 31 + word:byte(c)) % 1000000007 end
	end
	return h * 10000 + count
end

local function orbit(n)
	local px, py, vx, vy, dt = 1.0, 0.0, 0.0, 1.1, 1.0 / 4096.0
	for _ = 1, n do
		local r = px * px + py * py
		local d = dt / (r * sqrt(r))
		vx = vx - px * d
		vy = vy - py * d
		px = px + vx * dt
		py = py + vy * dt
	end
	return floor(px * 1e9) * 7 + floor(py * 1e9)
end

local Square, Strip = {}, {}
Square.__index, Strip.__index = Square, Strip
function Square:area() return self.a * self.a % 65537 end
function Strip:area() return self.a * 3 + 1 end
local function new(class, a) return setmetatable({ a = a }, class) end

local function calls(n)
	local shapes = { [0] = new(Square, 3), new(Strip, 5), new(Square, 7), new(Strip, 9) }
	local x, total = 11, 0
	for _ = 1, n do
		x = step(x)
		local s = shapes[x % 4]
		total = (total + s:area()) % 1000000007
		s.a = (s.a + x) % 1009
	end
	return total
end

local function fib(n)
	if n < 2 then return n end
	return fib(n - 1) + fib(n - 2)
end

local function show(name, value) print(string.format("%s %.0f", name, value)) end
show("primes", primes(1000000))
show("ordered", ordered(200000))
show("text", text(200000))
show("orbit", orbit(1000000))
show("calls", calls(1000000))
show("fib", fib(27))
