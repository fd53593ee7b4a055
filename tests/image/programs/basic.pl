#!/usr/bin/perl
# basic.pl: the parts of Perl that its own base, op, re and lib tests begin with; prints what a sound machine prints everywhere.
use strict;
use warnings;
no warnings "portable";
use Digest::SHA qw(sha256_hex sha512_hex);
use Digest::MD5 qw(md5_hex);
use List::Util qw(sum reduce shuffle);
use Math::BigInt;
use MIME::Base64;
use POSIX qw(floor ceil fmod strtol);
use Storable qw(freeze thaw);
use Time::Local;

my $x = 12345;
sub step { $x = $x * 16807 % 2147483647 }

print "numbers ", join(",", 7 / 2, int(-7 / 2), -7 % 3, 2 ** 40, 1e15 + 0.5, 0x7fffffffffffffff, ~0, 1 / 3), "\n";
print "format ", sprintf("%05d|%-8s|%+.3e|%x|%o|%b|%g|%.15g|%s", 42, "ab", 12345.678, 255, 8, 5, 1e-5, 0.1 + 0.2, 1e100), "\n";
print "posix ", join(",", floor(-1.5), ceil(1.2), fmod(10.5, 3), (strtol("ff", 16))[0]), "\n";
printf "math %.12f %.12f %.12f %.12f\n", sin(1), exp(1), log(10), atan2(1, 2);
my @n = map { step() % 100000 } 1 .. 20000;
print "sort ", md5_hex(join " ", sort { $a <=> $b } @n), " ", md5_hex(join " ", sort @n), " ", sum(@n), "\n";
my %h;
$h{$_ % 997}++ for @n;
print "hash ", md5_hex(join ",", map { "$_=$h{$_}" } sort keys %h), "\n";
my $text = join " ", map { chr(97 + step() % 26) x (1 + step() % 4) } 1 .. 5000;
my $count = () = $text =~ /\b(\w)\1+\b/g;
(my $swapped = $text) =~ s/(\w+) (\w+)/$2 $1/g;
(my $upper = $text) =~ tr/a-m/A-M/;
print "regex $count ", md5_hex($swapped), " ", md5_hex($upper), " ", scalar(split /aa?/, $text), "\n";
print "pack ", unpack("H*", pack("nNvVqQdfA5", 1, 2, 3, 4, -5, 6, 1.5, -2.25, "abc")), "\n";
print "digest ", sha256_hex($text), " ", substr(sha512_hex($text x 20), 0, 32), " ", md5_hex(encode_base64($text)), "\n";
my $f = reduce { $a * $b } map { Math::BigInt->new($_) } 1 .. 120;
print "bigint $f ", Math::BigInt->new(3)->bmodpow(1000003, 1000000007), "\n";
my $deep = thaw freeze { list => [1 .. 100], map { ("k$_" => { n => $_ }) } 1 .. 50 };
print "storable ", join(",", sum(@{$deep->{list}}), scalar(keys %$deep), $deep->{k7}{n}), "\n";
print "eval ", join(",", map { my $n = $_; eval { die "odd\n" if $n % 2; $n } // "no" } 1 .. 6), "\n";
print "closures ", join(",", map { $_->(10) } map { my $n = $_; sub { $_[0] * $n } } 1 .. 5), "\n";
print "time ", timegm(0, 0, 0, 29, 1, 124), " ", POSIX::strftime("%Y-%m-%d %j", gmtime 1e9), "\n";
local $SIG{ALRM} = sub { die "alarm\n" };
my $got = eval { alarm 1; select undef, undef, undef, 10; 1 } ? "none" : $@;
print "signal $got";
my $sum = 0;
for my $child (1 .. 8) {
	pipe my $r, my $w or die;
	my $pid = fork // die;
	if (!$pid) {
		print $w $child * $child, "\n";
		close $w;
		exit $child;
	}
	close $w;
	$sum += <$r>;
	waitpid $pid, 0;
	$sum += $? >> 8;
}
print "fork $sum\n";
my ($out, $lines) = ("", 0);
open my $file, "+>", undef or die;
print $file "$_:" . step() . "\n" for 1 .. 5000;
seek $file, 0, 0;
while (<$file>) { $out = md5_hex($out . $_); $lines++ }
print "file $lines $out\n";
sub ackermann { my ($m, $n) = @_; $m ? ackermann($m - 1, $n ? ackermann($m, $n - 1) : 1) : $n + 1 }
no warnings "recursion";
print "recursion ", ackermann(2, 40), "\n";
