/* A program without a C library on Linux: its start, reading, writing, leaving. */

#if defined(__x86_64__)
#define SYS_READ 0
#define SYS_WRITE 1
#define SYS_EXIT 60
static long call(long n, long a, long b, long c) {
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return r;
}
__asm__(".globl _start\n_start:\n xor %ebp, %ebp\n and $-16, %rsp\n call start\n");
#elif defined(__aarch64__)
#define SYS_READ 63
#define SYS_WRITE 64
#define SYS_EXIT 93
static long call(long n, long a, long b, long c) {
    register long x8 __asm__("x8") = n;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    return x0;
}
__asm__(".globl _start\n_start:\n mov x29, #0\n bl start\n");
#elif defined(__riscv)
#define SYS_READ 63
#define SYS_WRITE 64
#define SYS_EXIT 93
static long call(long n, long a, long b, long c) {
    register long a7 __asm__("a7") = n;
    register long a0 __asm__("a0") = a;
    register long a1 __asm__("a1") = b;
    register long a2 __asm__("a2") = c;
    __asm__ volatile("ecall" : "+r"(a0) : "r"(a7), "r"(a1), "r"(a2) : "memory");
    return a0;
}
__asm__(".globl _start\n_start:\n .option push\n .option norelax\n la gp, __global_pointer$\n .option pop\n call start\n");
#else
#error "no start for this machine"
#endif

/* Reads or writes exactly n bytes; 0 if that went well. */
static int transfer(long what, long file, unsigned char *p, unsigned long n) {
    while (n > 0) {
        long k = call(what, file, (long)p, (long)n);
        if (k <= 0) return 1;
        p += k;
        n -= (unsigned long)k;
    }
    return 0;
}

int main(void);

__attribute__((noreturn, used)) void start(void) {
    call(SYS_EXIT, main(), 0, 0);
    for (;;) {}
}
